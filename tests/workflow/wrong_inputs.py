# ruff: noqa: E501
"""What is wrong with a run, and the lines that its user is to see: the table, and how it is played.

A case is played in this process as the Snakefile plays it: files are merged and read, then what the
jobs to come need is looked at, and only then the first jobs run, which read text. `{here}` in a
line stands for the folder of the case.
"""

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from deepseemoe.config import CorpusConfig, RunConfig, load_run
from deepseemoe.config.files import merged
from deepseemoe.preflight import problems

HEAD = "the configuration is not valid:"
TEXTS = [f"document {n} " + "word " * 50 for n in range(40)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
OLMOE = {
    "model_type": "olmoe", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4,
    "num_experts_per_tok": 2, "eos_token_id": 0,
}  # fmt: skip
SAE = {
    "architecture": "standard", "d_in": 8, "d_sae": 6, "dtype": "float32",
    "apply_b_dec_to_input": True, "normalize_activations": "none",
    "metadata": {"hook_name": "blocks.0.hook_resid_post"},
}  # fmt: skip


class Wrong(NamedTuple):
    """One wrong run: its configuration, its files, and what is told of it."""

    what: str
    config: str | bytes
    lines: tuple[str, ...]
    files: Mapping[str, bytes] = {}
    rules: tuple[str, ...] | None = None
    """The rules that have jobs to do; None is all of `snakemake` alone."""
    told_by: str = "start"
    """`start`: before any job; otherwise the first jobs, which read text on a CPU."""


def prepared(case: Wrong, here: Path) -> Path:
    """Write the files of a case, and return its configuration file."""
    for name, content in case.files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    file = here / "run.yaml"
    config = case.config.encode() if isinstance(case.config, str) else case.config
    file.write_bytes(config)
    return file


def expected(case: Wrong, here: Path) -> list[str]:
    """Return the lines of a case in its folder."""
    return [line.replace("{here}", str(here)) for line in case.lines]


def told(case: Wrong, here: Path) -> tuple[str, list[str]]:
    """Return who tells what is wrong, and its lines; the working directory must be `here`."""
    try:
        run = load_run(merged([prepared(case, here)]))
    except ValueError as error:
        return "start", [line.strip() for line in str(error).splitlines() if line != HEAD]
    found = problems(run, case.rules)
    if case.rules and "justify" in case.rules:
        from deepseemoe.justify.plan import plan_problems

        found += plan_problems(run)
    if found:
        return "start", found
    return _first_jobs(run, here)


def _first_jobs(run: RunConfig, here: Path) -> tuple[str, list[str]]:
    """Run the jobs that read text; return the name and line of the one that fails."""
    from deepseemoe.corpus.pack import pack_corpus
    from deepseemoe.corpus.tokenizer import prepare_tokenizer

    name = run.model.name if run.model.source == "hub" else None
    config, out = CorpusConfig.model_validate(run.stage("corpus")), here / "out"
    shards = {
        split: [out / f"{split}{n}.zarr" for n in range(config.n_shards(split))]
        for split in ("train", "select", "test")
    }
    rule = "prepare_tokenizer"
    try:
        prepare_tokenizer(
            config, model_name=name, revision=None, folder=out / "tokenizer", seed=run.seed
        )
        rule = "pack_corpus"
        pack_corpus(
            config,
            tokenizer_folder=out / "tokenizer",
            shards=shards,
            documents=out / "documents.parquet",
            seed=run.seed,
        )
    except (ValueError, OSError) as error:
        return rule, str(error).splitlines()
    return "nobody", []


def packed(texts: Mapping[str, list[object]]) -> bytes:
    """Return a parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(texts)), sink)
    return sink.getvalue().to_pybytes()


def files_of(*paths: str, **corpus: object) -> str:
    """Return a configuration that reads files, enough for a tiny run where they are good."""
    sizes = {"n_tokens": {"train": 512, "select": 128, "test": 256}, "shard_tokens": 512}
    small = {"sequence_length": 32, "tokenizer": {"vocab_size": 300}, **sizes, **corpus}
    return json.dumps({"corpus": {"source": "files", "paths": list(paths), **small}})


def hub(**model: object) -> str:
    """Return a configuration that reads the model of folder `m`."""
    model = {"source": "hub", "name": "./m", **model}
    return json.dumps({"model": model, "windows": ["L00-L00"]})


def imported(format: str = "saelens", **dictionary: object) -> str:
    """Return a configuration that imports the dictionary of folder `sae`."""
    entry = {"imported": {"format": format, "folder": "sae"}, "d_dict": 6, "k": 2, **dictionary}
    shape = {"architecture": {"d_model": 8, "n_layers": 2}}
    return json.dumps({"windows": ["L00-L00"], "model": shape, "dictionaries": {"a": entry}})


def of_model(**changes: object) -> dict[str, bytes]:
    """Return the config.json of a tiny OLMoE with changes, and weights that nobody reads yet."""
    config = json.dumps({**OLMOE, **changes}).encode()
    return {"m/config.json": config, "m/model.safetensors": b""}


def tensors(**shapes: tuple[int, ...]) -> bytes:
    """Return a safetensors file of zeros."""
    header, data = {}, b""
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        place = [len(data), len(data) + size]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": place}
        data += bytes(size)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD_SAE = tensors(W_enc=(8, 6), b_enc=(6,), W_dec=(6, 8), b_dec=(8,))

CASES = (  # one line a case: what, configuration, lines, files
    Wrong('an empty file', "", ('{here}/run.yaml: is empty; expected keys and values, as name: my-run',)),
    Wrong('a list on top', "- a\n- b\n", ('{here}/run.yaml: holds a list; expected keys and values, as name: my-run',)),
    Wrong('words alone', "just words\n", ('{here}/run.yaml: holds text; expected keys and values, as name: my-run',)),
    Wrong('a tab', "name: a\n\tseed: 1\n", ('{here}/run.yaml, line 2: is not YAML: a tab; indent with spaces',)),
    Wrong('a brace that is left open', "corpus: {source: files\n", ("{here}/run.yaml, line 2: is not YAML: expected ',' or '}', but got '<stream end>'",)),
    Wrong('a key twice', "corpus: {source: embedded}\nseed: 1\nseed: 2\n", ("{here}/run.yaml, line 3: the key 'seed' stands twice, first in line 2; leave one",)),
    Wrong('a key twice inside', "dictionaries:\n  a: {k: 3}\n  a: {k: 4}\n", ("{here}/run.yaml, line 3: the key 'a' stands twice, first in line 2; leave one",)),
    Wrong('Latin-1', "# Gr\u00fc\u00dfe\nname: a\n".encode("latin-1"), ('{here}/run.yaml: byte 4 is not UTF-8; save the file as UTF-8',)),
    Wrong('a file of bytes', b"\x89PNG\r\n\x1a\n\x00\x00", ('{here}/run.yaml: byte 0 is not UTF-8; save the file as UTF-8',)),
    Wrong('a Python object', "name: !!python/object/apply:os.system ['true']\n", ("{here}/run.yaml, line 1: is not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",)),
    Wrong('an unknown key', "dictionarys: {}\nlabels: {labeler: offline}\n", ("labels.labeler: unknown key; did you mean 'labeller'?", "dictionarys: unknown key; did you mean 'dictionaries'?")),
    Wrong('a section that is a number', "corpus: 5\n", ('corpus: expected keys and values (found 5)',)),
    Wrong('an empty section', "model:\n", ('model: expected keys and values (found nothing)',)),
    Wrong('a word for a number', "features: {n_top: many}\n", ("features.n_top: expected a whole number (found 'many')",)),
    Wrong('true for a number', "seed: true\n", ('seed: is neither true nor false; write a value as the key asks for (found true)',)),
    Wrong('1e6 for tokens', "corpus: {n_tokens: {train: 1e6}}\n", ("corpus.n_tokens.train: expected a whole number (found '1e6')",)),
    Wrong('a list that is a word', "windows: L00-L01\n", ("windows: expected a list, as [a, b] (found 'L00-L01')",)),
    Wrong("a word that is none of a key's", "batches: {together: some}\n", ("batches.together: expected a whole number, or 'auto' (found 'some')",)),
    Wrong('an infinite learning rate', "dictionaries: {a: {learning_rate: .inf}}\n", ('dictionaries.a.learning_rate: expected a finite number (found inf)',)),
    Wrong('a name that leaves the results', "name: ../../etc\n", ("name: expected lower-case letters, digits and dashes alone, as my-run (found '../../etc')",)),
    Wrong('a dictionary that leaves its folder', "dictionaries: {../x: {}}\n", ("dictionaries.../x: expected lower-case letters, digits and dashes alone, as my-run (found '../x')",)),
    Wrong('negative seed', "seed: -1\ntrust: {seeds: [-1, 0, 1]}\n", ('seed: expected 0 or more (found -1)', 'trust.seeds.0: expected 0 or more (found -1)')),
    Wrong('window beyond', "windows: [L00-L01, L02-L09]\n", ('windows: L02-L09 goes beyond the model, whose last layer is 3',)),
    Wrong('windows twice', "windows: [L00-L00, L00-L00]\n", ('windows: L00-L00 stands twice',)),
    Wrong('window backwards', "windows: [L03-L01]\n", ("windows.0: last layer 1 comes before first layer 3 (found 'L03-L01')",)),
    Wrong('window numbers', "windows: [[0, 1]]\n", ("windows.0: a window is written L08-L10 (first and last layer), not '[0, 1]' (found [0, 1])",)),
    Wrong('k as large as d_dict', "dictionaries: {a: {k: 64, d_dict: 64}}\n", ('dictionaries.a: k 64 is not less than d_dict 64',)),
    Wrong('live together', "batches: {source: live, together: 2}\n", ('batches: together: source live trains all dictionaries in one job; leave it 1',)),
    Wrong('live processes', "batches: {source: live}\ndevices: {processes: 2}\n", ('devices: batches.source live trains dictionaries in one process on one device; write dictionary: cuda or cpu and leave processes, or write source: cache',)),
    Wrong('hub name without hub', "model: {name: openai/gpt-oss-20b}\n", ('model: name openai/gpt-oss-20b is for source hub, and source is nanomoe; write source: hub, or leave name out',)),
    Wrong('odd heads', "model: {architecture: {d_model: 12}}\n", ('model.architecture: d_model 12 over n_heads 4 is an odd width of heads, and rotary positions turn pairs; choose others',)),
    Wrong('expert_domains', "model: {expert_domains: [law, code]}\n", ('model: expert_domains names 2 experts, and the model has 8 a layer; name each',)),
    Wrong('pathvars', "pathvars: {result: /disk}\n", ("pathvars: result is none of results, logs, benchmarks, resources, reports, stats, temp; did you mean 'results'?",)),
    Wrong('pathvars wildcard', "pathvars: {results: 'a/{run}'}\n", ("pathvars: results: 'a/{run}' is no folder; write one, as results: /disk/results",)),
    Wrong('pathvars is file', "pathvars: {results: file/results}\n", ('pathvars.results: {here}/file is no folder; name another',), {"file":b"x"}),
    Wrong('more than all steps', "dictionaries: {a: {warmup_fraction: 0.9, decay_fraction: 0.5}}\n", ('dictionaries.a: warmup_fraction 0.9 and decay_fraction 0.5 are more than all steps; lower one of them',)),
    Wrong('no length of documents is left', "corpus: {filters: {min_chars: 100, max_chars: 10}}\n", ('corpus.filters: max_chars 10 is less than min_chars 100, which no document is; raise the one or lower the other',)),
    Wrong('a sequence that no shard holds whole', "corpus: {sequence_length: 100}\n", ('corpus: shard_tokens 262144 is not a multiple of sequence_length 100',)),
    Wrong('base_url', "labels: {base_url: 'localhost:8000'}\n", ("labels.base_url: is no address of a server; write one as http://localhost:8000/v1 (found 'localhost:8000')",)),
    Wrong('base_url secret', "labels: {base_url: 'http://me:hunter2@host/v1'}\n", ('labels.base_url: holds a user, password or query; put the key into the variable api_key_env',)),
    Wrong('key in name', "labels: {api_key_env: sk-live-0123}\n", ('labels.api_key_env: is no name of an environment variable; write its name, and the key or password into the variable',)),
    Wrong('api_key', "labels: {api_key: sk-live-0123}\n", ("labels.api_key: unknown key; did you mean 'api_key_env'?",)),
    Wrong('budget', "labels: {budget_usd: 3}\n", ('labels: budget_usd needs usd_per_million_in and usd_per_million_out; write the prices, 0 for a server of your own',)),
    Wrong('request', "labels: {request: {messages: [], temperature: 1}}\n", ('labels.request: messages is set by the stage itself; leave it out',)),
    Wrong('prompts none', "labels: {labeller: openai, prompts: mine, api_key_env: HOME}\n", ('labels.prompts: mine is no folder; name one that holds detect.txt',)),
    Wrong('prompts blank', "labels: {labeller: openai, prompts: mine, api_key_env: HOME}\n", ('mine/detect.txt lacks $label, lacks $n_texts, lacks $texts, lacks $zeros, has $contents, which nothing fills; its blanks are $label, $n_texts, $texts, $zeros',), {"mine/detect.txt":b"Look at $contents"}),
    Wrong('prompts latin', "labels: {labeller: openai, prompts: mine, api_key_env: HOME}\n", ('labels.prompts: mine/detect.txt: byte 2 is not UTF-8; save it as UTF-8',), {"mine/detect.txt":"Gr\u00fc\u00dfe".encode("latin-1")}),
    Wrong('labels domains', "labels: {domains: [physics]}\n", ('labels.domains: source embedded has no physics; it has code, comments, docstrings, encodings, messages, reference, tables, unicode',)),
    Wrong('no key', "labels: {labeller: openai, api_key_env: NO_SUCH_KEY_HERE}\n", ('labels.api_key_env: the environment variable NO_SUCH_KEY_HERE is not set; export the key of your server, or any word where it asks for none',)),
    Wrong('corpus domains', "corpus: {domains: [physics]}\n", ('corpus.domains: source embedded has no physics; it has code, comments, docstrings, encodings, messages, reference, tables, unicode',)),
    Wrong('no folder', hub(), ('model.name: m holds no config.json; name a model folder or a Hub name',)),
    Wrong('no config', hub(), ('model.name: m holds no config.json; name a model folder or a Hub name',), {"m/x":b""}),
    Wrong('config.json is cut', hub(), ("model.name: It looks like the config file at 'm/config.json' is not a valid JSON file.",), {"m/config.json":b'{"model_type": '}),
    Wrong('config.json is binary', hub(), ("model.name: It looks like the config file at 'm/config.json' is not a valid JSON file.",), {"m/config.json":b'\xff\xfe\x00\x01'}),
    Wrong('config.json is a list', hub(), ('model.name: m: config.json holds no keys and values; fetch it again',), {"m/config.json":b'[1, 2]'}),
    Wrong("a model without experts' family", hub(), ("model.name: m: model type 'llama' is no Mixture-of-Experts family that this version reads; known are deepseek, deepseek_v2, deepseek_v3, ernie4_5_moe, flex_olmo, glm4_moe, gpt_oss, llama4_text, mixtral, nanomoe, olmoe, qwen3_moe",), {"m/config.json":b'{"model_type": "llama"}'}),
    Wrong('a model that brings its own code', hub(), ("model.name: m: model type 'mystery' is no Mixture-of-Experts family that this version reads; known are deepseek, deepseek_v2, deepseek_v3, ernie4_5_moe, flex_olmo, glm4_moe, gpt_oss, llama4_text, mixtral, nanomoe, olmoe, qwen3_moe",), {"m/config.json":b'{"model_type": "mystery", "auto_map": {"AutoModel": "modeling.Mystery"}}',"m/modeling.py":b"open('pwned','w')"}),
    Wrong('no weights', hub(), ('model.name: m: no model.safetensors or model.safetensors.index.json; found no weights; fetch safetensors',), {"m/config.json":of_model()["m/config.json"]}),
    Wrong('weights that are pickles', hub(), ('model.name: m: no model.safetensors or model.safetensors.index.json; found pytorch_model.bin, which are pickles; fetch safetensors',), {"m/config.json":of_model()["m/config.json"],"m/pytorch_model.bin":b"x"}),
    Wrong('an index that leaves its folder', hub(), ("model.name: m/model.safetensors.index.json: names '../../x.safetensors' as weights; expected .safetensors files beside it",), {"m/config.json":of_model()["m/config.json"],"m/model.safetensors.index.json":b'{"weight_map": {"a": "../../x.safetensors"}}'}),
    Wrong('index missing', hub(), ('model.name: m: 1 of 1 files of weights are not there (model-1.safetensors); fetch the checkpoint again',), {"m/config.json":of_model()["m/config.json"],"m/model.safetensors.index.json":b'{"weight_map": {"a": "model-1.safetensors"}}'}),
    Wrong('layers', json.dumps({"model":{"source":"hub","name":"./m"},"windows":["L00-L07"]}), ('windows: L00-L07 goes beyond the model, whose last layer is 1',), of_model()),
    Wrong('dense', hub(), ('model.name: m: all 2 layers are dense, no experts to read',), of_model(model_type="qwen3_moe",mlp_only_layers=[0,1],decoder_sparse_step=1)),
    Wrong('wrong number', hub(), ("model.name: m: config.json holds what is no model's (Validation error for field 'num_hidden_layers': TypeError: Field 'num_hidden_layers' expected int, got str (value: 'two'))",), of_model(num_hidden_layers="two")),
    Wrong('odd shape', hub(), ('model.name: m: config.json makes no model (ZeroDivisionError: integer division or modulo by zero)',), of_model(num_attention_heads=0)),
    Wrong('quantised', hub(), ('model.name: m: its weights are quantised (awq), and of these only mxfp4 is read; name a checkpoint in bfloat16',), of_model(quantization_config={"quant_method":"awq"})),
    Wrong('hub domains', hub(expert_domains=["a"]), ('model.expert_domains: names 1 experts, and the model has 4 a layer; name each',), of_model()),
    Wrong('odd name', hub(name="a b c"), ('model.name: a b c: this is neither a folder nor a name of the Hub, as openai/gpt-oss-20b',)),
    Wrong('tokenizer none', json.dumps({**json.loads(files_of("t.jsonl")),**json.loads(hub())}), ("model.name ./m: the folder holds no tokenizer (tokenizer.json); copy the model's own there",), {"t.jsonl":LINES,**of_model()}, told_by='prepare_tokenizer'),
    Wrong('tokenizer broken', json.dumps({**json.loads(files_of("t.jsonl")),**json.loads(hub())}), ('model.name ./m: its tokenizer cannot be loaded (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))',), {"t.jsonl":LINES,**of_model(),"m/tokenizer.json":b"{"}, told_by='prepare_tokenizer'),
    Wrong('a glob that matches nothing', files_of("none/*.jsonl"), ('corpus.paths: none/*.jsonl matches no file; name a file, a folder or a glob',)),
    Wrong('empty path', files_of(""), ("corpus.paths: holds an empty path; name a file, a folder or a glob (found [''])",)),
    Wrong('a variable that is not set', files_of("$NO_SUCH_VARIABLE/x"), ("corpus.paths: $NO_SUCH_VARIABLE/x names an environment variable that is not set; export it (found ['$NO_SUCH_VARIABLE/x'])",)),
    Wrong('an address without its package', files_of("s3://bucket/a.jsonl"), ('corpus.paths: s3://bucket/a.jsonl cannot be read here: Install s3fs to access S3',)),
    Wrong('an address of no protocol', files_of("zzz://bucket/a.jsonl"), ('corpus.paths: zzz://bucket/a.jsonl cannot be read here: Protocol not known: zzz',)),
    Wrong('empty folder', files_of("t"), ('corpus.paths: t holds no .jsonl, .json.gz, .jsonl.gz, .jsonl.zst, .zst, .parquet or .txt file; found README.md',), {"t/README.md":b"x"}),
    Wrong('a file of no known kind', files_of("a.exe"), ('corpus.paths: a.exe cannot be read: it is not .jsonl, .json.gz, .jsonl.gz, .jsonl.zst, .zst, .parquet or .txt, or its name ends _old',), {"a.exe":b"MZ"}),
    Wrong('empty jsonl', files_of("a.jsonl"), ('{here}/a.jsonl: the file holds no documents; fetch it again, or leave it out',), {"a.jsonl":b""}, told_by='prepare_tokenizer'),
    Wrong('jsonl binary', files_of("a.jsonl"), ("{here}/a.jsonl: none of its first 1 documents has text at text_key 'text' (1 bad_encoding); keys found: none",), {"a.jsonl":b"\x00\xff"*2000+b"\n"}, told_by='prepare_tokenizer'),
    Wrong('jsonl utf16', files_of("a.jsonl"), ("{here}/a.jsonl: none of its first 41 documents has text at text_key 'text' (1 bad_encoding, 40 broken_json); keys found: none",), {"a.jsonl":LINES.decode().encode("utf-16")}, told_by='prepare_tokenizer'),
    Wrong('jsonl broken', files_of("a.jsonl"), ("{here}/a.jsonl: none of its first 5 documents has text at text_key 'text' (5 broken_json); keys found: none",), {"a.jsonl":b"{\"text\": \n"*5}, told_by='prepare_tokenizer'),
    Wrong('jsonl list', files_of("a.jsonl"), ("{here}/a.jsonl: none of its first 5 documents has text at text_key 'text' (5 broken_json); keys found: none",), {"a.jsonl":b"[1]\n"*5}, told_by='prepare_tokenizer'),
    Wrong('no such key of documents', files_of("a.jsonl",text_key="body"), ("{here}/a.jsonl: none of its first 40 documents has text at text_key 'body' (40 no_text); keys found: text",), {"a.jsonl":LINES}, told_by='prepare_tokenizer'),
    Wrong('numbers', files_of("a.jsonl"), ("{here}/a.jsonl: none of its first 5 documents has text at text_key 'text' (5 no_text); keys found: text",), {"a.jsonl":b"{\"text\": 5}\n"*5}, told_by='prepare_tokenizer'),
    Wrong('gz cut', files_of("a.jsonl.gz"), ('{here}/a.jsonl.gz: damaged or cut gz data (Compressed file ended before the end-of-stream marker was reached); fetch the file again, or leave it out',), {"a.jsonl.gz":gzip.compress(LINES,mtime=0)[:60]}, told_by='prepare_tokenizer'),
    Wrong('gz none', files_of("a.jsonl.gz"), ('{here}/a.jsonl.gz: damaged or cut gz data (Not a gzipped file (b\'{"\')); fetch the file again, or leave it out',), {"a.jsonl.gz":LINES}, told_by='prepare_tokenizer'),
    Wrong('zst cut', files_of("a.jsonl.zst"), ('{here}/a.jsonl.zst: damaged or cut zst data (the file ends inside a frame); fetch the file again, or leave it out',), {"a.jsonl.zst":zstandard.compress(LINES)[:60]}, told_by='prepare_tokenizer'),
    Wrong('zst none', files_of("a.jsonl.zst"), ('{here}/a.jsonl.zst: damaged or cut zst data (zstd decompressor error: Unknown frame descriptor); fetch the file again, or leave it out',), {"a.jsonl.zst":LINES}, told_by='prepare_tokenizer'),
    Wrong('pq none', files_of("a.parquet"), ('{here}/a.parquet: cannot be read as parquet (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.); fetch it again',), {"a.parquet":LINES}, told_by='prepare_tokenizer'),
    Wrong('pq cut', files_of("a.parquet"), ('{here}/a.parquet: cannot be read as parquet (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.); fetch it again',), {"a.parquet":packed({"text":TEXTS})[:-9]}, told_by='prepare_tokenizer'),
    Wrong('pq column', files_of("a.parquet"), ("{here}/a.parquet: no column for text_key 'text'; columns found: body",), {"a.parquet":packed({"body":TEXTS})}, told_by='prepare_tokenizer'),
    Wrong('pq numbers', files_of("a.parquet"), ("{here}/a.parquet: none of its first 2 documents has text at text_key 'text' (2 no_text); keys found: text",), {"a.parquet":packed({"text":[1,2]})}, told_by='prepare_tokenizer'),
    Wrong('txt latin', files_of("a.txt"), ('corpus: the source ended before its splits were full: train has 0 of 512 tokens, select has 0 of 128 tokens, test has 0 of 256 tokens (1 documents read: bad_encoding 1); name more text, or write a smaller sequence_length',), {"a.txt":"Gr\u00fc\u00dfe ".encode("latin-1")*500}, told_by='pack_corpus'),
    Wrong('too little', files_of("a.jsonl",n_tokens={"train":10240,"select":128,"test":256}), ('corpus: the source ended before its splits were full: train has 2168 of 10240 tokens, select has 0 of 128 tokens, test has 0 of 256 tokens (40 documents read: kept 40); name more text, or write a smaller sequence_length',), {"a.jsonl":LINES}, told_by='pack_corpus'),
    Wrong('shards', files_of("t",global_shards=[3]), ('corpus.paths: global_shards [3] and local_shards [] leave none of 1 files; found file:{here}/t',), {"t/a.jsonl":LINES}),
    Wrong('file domains', files_of("a.jsonl",domains=["law"]), ('corpus: the source ended before its splits were full: train has 0 of 512 tokens, select has 0 of 128 tokens, test has 0 of 256 tokens (40 documents read: domain 40); name more text, or write a smaller sequence_length',), {"a.jsonl":LINES}, told_by='pack_corpus'),
    Wrong('chat', files_of("a.jsonl",chat_key="messages"), ('corpus.chat_key: the tokenizer of model.source nanomoe has no chat template; name a model of source hub whose tokenizer has one',), {"a.jsonl":LINES}),
    Wrong('sae none', imported(), ('dictionaries.a.imported: sae: no dictionary of SAELens: no cfg.json (there is no such folder)',)),
    Wrong('sae empty', imported(), ('dictionaries.a.imported: sae: no dictionary of SAELens: no cfg.json (the folder holds x)',), {"sae/x":b""}),
    Wrong('sae json', imported(), ('dictionaries.a.imported: sae/cfg.json: not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); copy it again',), {"sae/cfg.json":b"{","sae/sae_weights.safetensors":GOOD_SAE}),
    Wrong('sae hook', imported(), ('dictionaries.a.imported: sae: it reads resid_post of L01 (blocks.1.hook_resid_post), and the window is L00-L00; expected L01-L01',), {"sae/cfg.json":json.dumps({**SAE,"metadata":{"hook_name":"blocks.1.hook_resid_post"}}).encode(),"sae/sae_weights.safetensors":GOOD_SAE}),
    Wrong('sae width', imported(), ('dictionaries.a.imported: sae: made for a d_model of 16, and the model has 8',), {"sae/cfg.json":json.dumps({**SAE,"d_in":16}).encode(),"sae/sae_weights.safetensors":GOOD_SAE}),
    Wrong('sae d_dict', imported(d_dict=7), ('dictionaries.a.imported: sae: has 6 features, and d_dict is 7; write 6',), {"sae/cfg.json":json.dumps(SAE).encode(),"sae/sae_weights.safetensors":GOOD_SAE}),
    Wrong('sae cut', imported(), ('dictionaries.a.imported: sae/sae_weights.safetensors: damaged (Error while deserializing header: incomplete metadata, file not fully covered); copy it again',), {"sae/cfg.json":json.dumps(SAE).encode(),"sae/sae_weights.safetensors":GOOD_SAE[:-50]}),
    Wrong('sae no weights', imported(), ('dictionaries.a.imported: sae/sae_weights.safetensors: no such file, the weights of the dictionary; copy it there',), {"sae/cfg.json":json.dumps(SAE).encode()}),
    Wrong('dl pickle', imported("dictionary_learning"), ("dictionaries.a.imported: sae/config.json: no key 'trainer.dict_class'; found trainer; expected what dictionary_learning's trainers write, or a sweep's architectures and layers",), {"sae/config.json":b'{"trainer": {}}',"sae/ae.pt":b"cos\nsystem\n(S'touch pwned'\ntR."}),
    Wrong('compare one', "compare: {runs: [a]}\n", ('compare.runs names 1 runs; name two or more finished ones, as compare: {runs: [tiny, results/other]}',), rules=("compare_runs",)),
    Wrong('compare none', "compare: {runs: [a, b]}\n", ('compare.runs: no such run as results/a',), rules=("compare_runs",)),
    Wrong('compare unfinished', "windows: [L00-L00]\ncompare: {runs: [a, b]}\n", ('results/a is not finished: routing/load.parquet is missing; finish that run first',), {"results/a/config.yaml":b"dictionaries: {}\nwindows: []\n","results/b/x":b""}, rules=("compare_runs",)),
    Wrong('compare broken', "compare: {runs: [a, b]}\n", ('results/a/config.yaml: holds a list; expected keys and values, as name: my-run',), {"results/a/config.yaml":b"- 1\n","results/b/x":b""}, rules=("compare_runs",)),
    Wrong('compare broken2', "compare: {runs: [a, b]}\n", ("results/a/config.yaml, line 1: is not YAML: expected the node content, but found '<stream end>'",), {"results/a/config.yaml":b"a: [","results/b/x":b""}, rules=("compare_runs",)),
    Wrong('compare twice', "compare: {runs: [a, results/a]}\n", ('compare: runs: a stands twice; give each a label of its own',)),
    Wrong('justify layers', hub(), ('justify.layers: name the layers to lay windows in, as L08-L15, for `source: hub`',), of_model(), rules=("justify",)),
    Wrong('justify k', "justify: {d_dict: 16, k: 8}\n", ('justify: features-pairs has 32 of 16 features active at the widest window; raise d_dict or lower k or widths',), rules=("justify",)),
    Wrong('justify beyond', "justify: {layers: L00-L09}\n", ('justify.layers: L00-L09 goes beyond the model, whose last layer is 3',)),
    Wrong('justify arms', "justify: {arms: [random]}\n", ('justify: arms: features-l0 must be among them, as all gains are over it',)),
    Wrong('trust seeds', "trust: {seeds: [0, 0, 1]}\n", ('trust: seeds: [0, 0, 1] holds one twice; each is a repetition',)),
    Wrong('trust switches', "trust: {switches: [weight]}\n", ("trust.switches.0: expected 'documents', 'layers', 'weights' or 'labels'; did you mean 'weights'? (found 'weight')",)),
    Wrong('a control of a control', "model: {random_weights: true}\nprediction: {random_model: true}\n", ('prediction.random_model: compares with random weights, and model.random_weights reads nothing else; leave one of the two out',)),
)  # fmt: skip
