"""The stochastic samplers of diffusers and k-diffusion on an exact denoiser; each package is optional."""

from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec


def k_diffusion_sampling() -> types.ModuleType:
    """k_diffusion.sampling alone: the package itself would ask for image libraries that no sampler needs."""
    if "k_diffusion.sampling" not in sys.modules:
        found = find_spec("k_diffusion")
        if found is None:
            raise ImportError("k-diffusion is not installed; pip install --no-deps k-diffusion")
        package, helpers = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
        package.__path__ = list(found.submodule_search_locations or ())
        helpers.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]
        package.utils = helpers
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": helpers}
    return importlib.import_module("k_diffusion.sampling")
