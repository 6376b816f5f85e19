"""`flotilla` in the process of the tests."""

from __future__ import annotations

import pytest
from command_line import Ended, Run

from flotilla_cli.__main__ import main


@pytest.fixture
def flotilla(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `flotilla` with these arguments."""

    def command(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, error = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, error)

    return command
