"""Weights of an nginx upstream, in a file that belongs to the hook and that nginx includes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluator.errors import HookError

__all__ = ["Nginx"]

_ADDRESS = re.compile(r"[\w.:\[\]-]+")


@dataclass(frozen=True, slots=True)
class Nginx:
    """One nginx by its configuration, and the file of `server` lines that its upstream includes."""

    config: Path
    upstream_file: Path
    program: str = "nginx"
    timeout_s: float = 10.0

    def set(self, weights: Mapping[str, int]) -> str:
        """Set weights of addresses (0: none) and return the earlier content of the file, which undoes it.

        The configuration is tested before nginx reloads; where either fails the earlier content is restored. Raises
        HookError.
        """
        return self.write("".join(_to_line(address, weight) for address, weight in weights.items()))

    def write(self, content: str) -> str:
        """Put `content` in place of what the file holds, and return that. Raises HookError."""
        try:
            earlier = self.upstream_file.read_text(encoding="utf-8")
            self._replace(content)
            try:
                self._run("-t")
                self._run("-s", "reload")
            except HookError:
                self._replace(earlier)
                raise
        except OSError as error:
            raise HookError(f"{self.upstream_file} cannot be changed: {error.strerror}") from None
        return earlier

    def _replace(self, content: str) -> None:
        unfinished = self.upstream_file.with_name(f"{self.upstream_file.name}.{os.getpid()}.tmp")
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(self.upstream_file)

    def _run(self, *arguments: str) -> None:
        command = [self.program, "-c", str(self.config), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise HookError(f"nginx {' '.join(arguments)} took longer than {self.timeout_s:g} s") from None
        except OSError as error:
            raise HookError(f"{self.program} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise HookError(f"nginx {' '.join(arguments)} failed: {' '.join(done.stderr.split())[-300:]}")


def _to_line(address: str, weight: int) -> str:
    if not _ADDRESS.fullmatch(address) or weight < 0:
        raise HookError(f"{address!a} with weight {weight} is not a server of an upstream")
    return f"server {address} {f'weight={weight}' if weight else 'down'};\n"
