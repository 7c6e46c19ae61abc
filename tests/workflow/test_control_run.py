"""With `model.random_weights`, every rule that read the trained model reads the random one."""

import json

import pytest
import yaml
from runs import ROOT, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"
TRAINED, RANDOM = "train_model", "randomise_model"


def readers(workdir, *, is_random, **sections):
    """Return the rules whose input each of the two models would be, by who makes it."""
    config = yaml.safe_load(SMALL.read_text()) | sections
    config["model"] |= {"random_weights": is_random}
    file = workdir / f"{is_random}.yaml"
    file.write_text(yaml.safe_dump(config))
    done = snakemake(workdir, file, "--d3dag")
    assert done.returncode == 0, done.stdout
    drawn, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index('{"nodes"'))
    rule_of = {node["id"]: node["value"]["rule"] for node in drawn["nodes"]}
    found: dict[str, set[str]] = {TRAINED: set(), RANDOM: set()}
    for edge in drawn["edges"]:
        maker, user = rule_of[edge["u"]], rule_of[edge["v"]]
        if maker in found:
            found[maker].add(user)
    return found


@pytest.fixture(scope="module", params=["cache", "live"])
def found(request, tmp_path_factory):
    """Return who reads which model in the run, and in its control."""
    workdir = prepare(tmp_path_factory.mktemp("control"))
    batches = {"batches": {"source": request.param}}
    runs = [readers(workdir, is_random=which, **batches) for which in (False, True)]
    return request.param, *runs


def test_every_reader_of_the_trained_model_reads_the_random_one(found):
    source, run, control = found
    # Saturation is over checkpoints of the training, which random weights do not have.
    expected = run[TRAINED] - {"measure_saturation"}
    assert control[RANDOM] == expected
    assert {"evaluate_dictionary", "measure_effects", "map_writes"} <= expected
    assert {"cache": "cache_activations", "live": "train_live"}[source] in expected


def test_only_the_draw_looks_at_the_trained_model(found):
    _, run, control = found
    assert control[TRAINED] == {"randomise_model"}
    assert run[RANDOM] == set()


def test_rules_that_name_a_model_ask_for_it_by_the_function():
    """A new rule that spells the folder out would read the trained model in every control."""
    allowed = {"rules/common.smk": 2, "rules/model.smk": 1}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        name = str(path.relative_to(ROOT))
        lines = [x for x in path.read_text().splitlines() if '{run}/model"' in x]
        assert len(lines) <= allowed.get(name, 0), f"{name}: use model_folder()"


def test_a_run_from_before_the_key_is_not_read_anew(tmp_path):
    """Params of rules hold no key that says nothing: Snakemake would run them all again."""
    script = 'print("KEYS", sorted(model_params()), sorted(model_training()))'
    snakefile = tmp_path / "Snakefile"
    rooms = (f'include: "{ROOT}/rules/{room}.smk"' for room in ("common", "common_training"))
    snakefile.write_text("\n".join([*rooms, script, "rule nothing:", ""]))
    done = snakemake(prepare(tmp_path), SMALL, "--snakefile", str(snakefile), "--dry-run")
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("KEYS"))
    assert "random_weights" not in told
