"""Named sizes of new models, a table for each kind of architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm.lazy_names import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__)

if TYPE_CHECKING:
    from tfllm.models.sizes.all_sizes import size as size
