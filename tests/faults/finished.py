"""The run that the tests of faults start from: small, with labels of a server."""

import json

from llm_brains import Lexical
from llm_server import Server
from runs import ROOT

SMALL = ROOT / "tests/config/small.yaml"
CONFIG = ROOT / "tests/config/faults.yaml"
RUN = "results/small"


class Labelled:
    """Runs are labelled by a server of one address, since that is a parameter of the stage."""

    def __init__(self, port: int):
        self.port = port

    def server(self) -> Server:
        """Return a server that remembers what it was asked; use it as a context manager."""
        return Server(Lexical(), port=self.port)

    @property
    def arguments(self) -> list[str]:
        """Options of Snakemake that name the address."""
        address = {"base_url": f"http://127.0.0.1:{self.port}/v1"}
        return ["--config", f"labels={json.dumps(address)}", "--"]
