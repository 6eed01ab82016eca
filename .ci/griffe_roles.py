"""A griffe extension: docstrings name Python objects by Sphinx roles, which the site shows as code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?\.?([^`]+)`")


class PlainRoles(Extension):
    """Replaces ``:class:`x``` by ``x`` in code font."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object. A module's goes away: its page has an introduction."""
        if obj.is_module:
            obj.docstring = None
        elif obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
