"""The scripts by which shells complete the command line; it runs nothing."""

from __future__ import annotations

import re


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
