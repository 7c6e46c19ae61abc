import numpy as np
import torch
from planted_model import PlantedDictionary, PlantedMoe
from scipy.stats import chi2_contingency

from deepseemoe.experts import legacy
from deepseemoe.names import Window


def test_cosine_is_that_of_direction_and_row_and_nan_without_a_direction():
    model = PlantedMoe(0, layers=(1, 2))
    decoder = torch.randn(4, 2, 64, generator=torch.Generator().manual_seed(1))
    decoder[2, 0] = 0
    learned = PlantedDictionary("crosscoder", Window(1, 2), decoder)
    found = legacy.cosine(model, learned, 2, np.array([0, 2]))
    rows = model.router_weight(2)
    expected = torch.cosine_similarity(decoder[0, 0][None], rows.float())
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert np.isnan(found[1]).all()


def test_chi_square_is_that_of_the_table():
    table = np.array([[30, 70], [120, 780]])
    found = legacy.chi_square_p(np.array(30), np.array(100), np.array(150), 1000)
    np.testing.assert_allclose(found, chi2_contingency(table, correction=False).pvalue, rtol=1e-9)
