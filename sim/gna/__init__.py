"""Generalized Neighborhood Attention: masks, tile counts, search, GPU projection."""

from hwattn.sim.gna.exploration import Candidate, SearchResult, search
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Projection, project
from hwattn.sim.gna.speedup import Speedup

__all__ = ["Candidate", "Pattern", "Projection", "SearchResult", "Speedup", "project", "search"]
