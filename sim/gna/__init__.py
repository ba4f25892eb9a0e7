"""Generalized Neighborhood Attention: masks, tile counts, search, GPU projection."""

from hwattn.sim.gna.counting import VisitCounts, count_visits
from hwattn.sim.gna.explanation import Explanation, explain
from hwattn.sim.gna.exploration import Candidate, SearchResult, search
from hwattn.sim.gna.gpus import Gpu, get_gpu, make_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Projection, project
from hwattn.sim.gna.reference import attention
from hwattn.sim.gna.speedup import Speedup
from hwattn.sim.gna.workloads import Workload, get_workload, make_workload, project_workload

__all__ = [
    "Candidate",
    "Explanation",
    "Gpu",
    "Pattern",
    "Projection",
    "SearchResult",
    "Speedup",
    "VisitCounts",
    "Workload",
    "attention",
    "count_visits",
    "explain",
    "get_gpu",
    "get_workload",
    "make_gpu",
    "make_workload",
    "project",
    "project_workload",
    "search",
]
