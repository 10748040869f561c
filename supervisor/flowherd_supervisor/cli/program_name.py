"""The name this program is called by, so that hints can be pasted, and completion in shells; it runs nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path


def called_from(folder: Path) -> str:
    """`flowherd` where the shell finds this installation, else the shortest path to it from `folder`."""
    own = Path(sys.executable).with_name("flowherd")
    found = shutil.which("flowherd")
    if not own.exists() or (found is not None and own.samefile(found)):
        return "flowherd"
    own = own.parent.resolve() / own.name
    return shlex.quote(min(os.path.relpath(own, folder.resolve()), str(own), key=len))


def completing(script: str, shell: str) -> str:
    """A shell's script, for zsh such that it can be sourced as well as put into a folder of `$fpath`."""
    if shell != "zsh":
        return script
    [function] = re.findall(r"^(\w+)\(\) \{$", script, flags=re.MULTILINE)[:1]
    return f"""{script}
if [[ $funcstack[1] == _flowherd ]]; then
  {function} "$@"
elif (( $+functions[compdef] )); then
  compdef {function} flowherd
else
  print -u2 'flowherd: first start completion: autoload -Uz compinit && compinit'
fi
"""
