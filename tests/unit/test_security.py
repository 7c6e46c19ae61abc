"""Nothing from outside is run: no pickles, no code of others, no shell, no other folder."""

import ast
import json
import logging
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from deepseemoe.config import ModelConfig, load_run
from deepseemoe.runtime.terminal import Printable, printable

ROOT = Path(__file__).parents[2]
CODE = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")])

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "marshal.loads"),
    *("dill.load", "dill.loads", "joblib.load", "cloudpickle.loads", "shelve.open"),
    *("pd.read_pickle", "pandas.read_pickle", "numpy.load", "yaml.load", "yaml.unsafe_load"),
    *("yaml.full_load", "os.system", "os.popen", "subprocess.getoutput", "torch.hub.load"),
    *("tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "jinja2.Template", "Markup"),
}
"""What runs code, reads pickles, or unpacks archives whose members choose their own places."""

RANDOM = (
    "random.",
    "np.random.",
    "numpy.random.",
    "torch.rand",
    "torch.randn",
    "uuid.uuid",
    "secrets.token",
)
SEEDED = {
    # Draws: in a forked state that is seeded by runtime.seeds, or of a generator seeded there.
    "src/deepseemoe/runtime/seeds.py": "the one place",
    "src/deepseemoe/model/training.py": "torch.manual_seed(seed_for(...)) inside fork_rng",
    "src/deepseemoe/justify/random_model.py": "torch.manual_seed(seed_for(...)) inside fork_rng",
    "src/deepseemoe/trust/in_memory.py": "default_rng of the seed that it is handed",
    "src/deepseemoe/dictionary/kernels/self_test.py": "fixed numbers, compared and thrown away",
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def value(call: ast.Call, name: str) -> object:
    found = [one.value for one in call.keywords if one.arg == name]
    return ast.literal_eval(found[0]) if found and isinstance(found[0], ast.Constant) else None


def problems_of(tree: ast.Module) -> list[str]:
    """Return the calls of a file that could run what others wrote."""
    found = []
    for name, call in calls(tree):
        if name in FORBIDDEN:
            found.append(name)
        if name == "torch.load" and value(call, "weights_only") is not True:
            found.append("torch.load without weights_only")
        if name in ("np.load", "numpy.load") and value(call, "allow_pickle") is not False:
            found.append("np.load without allow_pickle=False")
        if any(one.arg == "trust_remote_code" for one in call.keywords) and (
            value(call, "trust_remote_code") is not False
        ):
            found.append("trust_remote_code")
        if value(call, "shell"):
            found.append("shell")
        if name.endswith("jinja2.Environment") and value(call, "autoescape") is not True:
            found.append("jinja2 without autoescape")
        is_auto = name.startswith("Auto") and name.endswith(".from_pretrained")
        if is_auto and value(call, "trust_remote_code") is not False:
            found.append("from_pretrained without trust_remote_code=False")
    return found


def test_no_code_of_ours_runs_what_others_wrote():
    found = {str(p.relative_to(ROOT)): problems_of(parsed(p)) for p in CODE}
    assert {path: told for path, told in found.items() if told} == {}
    assert len(CODE) > 200


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
        "AutoConfig.from_pretrained(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "jinja2.Environment()",
        "yaml.load(x, Loader=yaml.Loader)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source):
    assert problems_of(ast.parse(source))


def test_no_pickle_is_imported_but_for_its_error():
    importers = {
        str(path.relative_to(ROOT))
        for path in CODE
        for node in ast.walk(parsed(path))
        for name in _imported(node)
        if name.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
    }
    # torch.load(weights_only=True) raises pickle.UnpicklingError; it unpickles no object.
    assert importers == {"src/deepseemoe/interop/peer_files.py"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_randomness_comes_from_one_place():
    found: dict[str, list[str]] = {}
    for path in CODE:
        place = str(path.relative_to(ROOT))
        for name, call in calls(parsed(path)):
            is_drawn = name.startswith(RANDOM) or name.endswith(("manual_seed", "default_rng"))
            has_own = any(one.arg == "generator" for one in call.keywords)
            if is_drawn and not has_own and place not in SEEDED and not _is_of_argument(name, path):
                found.setdefault(place, []).append(name)
    assert found == {}


def _is_of_argument(name: str, path: Path) -> bool:
    """Return whether `random.` is a generator that a function was handed, not the module."""
    is_module = any("random" in _imported(node) for node in ast.walk(parsed(path)))
    return name.startswith("random.") and not is_module


def evil(folder: Path, **config) -> Path:
    """Write a model and a tokenizer that bring code of their own, which leaves a mark."""
    folder.mkdir()
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nclass Evil:\n    pass\n"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (folder / name).write_text(code)
    maps = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModel": "modeling_evil.Evil",
        "AutoModelForCausalLM": "modeling_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", None],
    }
    text = {"auto_map": maps, "tokenizer_class": "Evil", **config}
    (folder / "config.json").write_text(json.dumps(text))
    (folder / "tokenizer_config.json").write_text(json.dumps(text))
    return folder


@pytest.mark.parametrize("model_type", ["mystery", "olmoe"])
def test_no_code_of_a_checkpoint_is_run(model_type, tmp_path):
    from deepseemoe.corpus.model_tokenizer import model_tokenizer
    from deepseemoe.model.checkpoint import open_checkpoint
    from deepseemoe.model.loading import load_model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_experts": 4}
    folder = evil(tmp_path / "m", model_type=model_type, num_key_value_heads=2, **sizes)
    config = ModelConfig(source="hub", name=str(folder))
    with suppress(ValueError):  # of the family that nobody knows
        open_checkpoint(config, None)
    with pytest.raises((ValueError, OSError)):
        load_model(config, None)
    with pytest.raises(ValueError, match=r"tokenizer"):
        model_tokenizer(str(folder), None)
    assert not (folder / "ran").exists()


def test_pickled_weights_are_not_read(tmp_path):
    from deepseemoe.model.weight_files import check_weight_files

    folder = evil(tmp_path / "m", model_type="olmoe")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(OSError, match=r"found pytorch_model.bin, which are pickles"):
        check_weight_files(folder)
    assert not (folder / "ran").exists()


def test_an_index_of_weights_cannot_leave_its_folder(tmp_path):
    from deepseemoe.model.weight_files import check_weight_files

    folder = evil(tmp_path / "m", model_type="olmoe")
    for name in ("../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", ".."):
        index = {"weight_map": {"a": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="as weights; expected .safetensors files beside it"):
            check_weight_files(folder)


@pytest.mark.parametrize(
    "raw",
    [
        {"name": "../out"},
        {"name": "a/b"},
        {"name": "a\nb"},
        {"name": "a\n"},
        {"name": "{run}"},
        {"dictionaries": {"../a": {}}},
        {"dictionaries": {"a\n": {}}},
        {"dictionaries": {"{window}": {}}},
        {"pathvars": {"results": "{run}"}},
    ],
)
def test_no_name_of_the_configuration_leaves_its_folder(raw):
    with pytest.raises(ValueError, match=r"expected lower-case letters|is no folder"):
        load_run(raw)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", "\\u001b[31mred\\u0007"),
        ("a\u202eb", "a\\u202eb"),
        ("zero\u200bwidth\x00", "zero\\u200bwidth\\u0000"),
        ("Grüße 你好\n\tend", "Grüße 你好\n\tend"),
    ],
)
def test_no_text_moves_the_cursor_of_a_terminal(text, shown):
    assert printable(text) == shown
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (text,), None)
    assert Printable("%(message)s").format(record) == shown


def test_no_code_reads_the_environment_into_a_file():
    whole = ("dict(os.environ)", "os.environ.copy()", "os.environ.items()", "dumps(os.environ")
    found = [str(p) for p in CODE if any(word in p.read_text("utf-8") for word in whole)]
    assert found == []
