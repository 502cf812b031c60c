"""Curves over steps, and budgets over layers."""

from jsparse._budget import Shapes as Shapes
from jsparse._budget import erdos_renyi as erdos_renyi
from jsparse._budget import erdos_renyi_kernel as erdos_renyi_kernel
from jsparse._budget import erdos_renyi_links as erdos_renyi_links
from jsparse._budget import uniform as uniform
from jsparse._schedule import Schedule as Schedule
from jsparse._schedule import constant as constant
from jsparse._schedule import cubic as cubic
from jsparse._schedule import geometric as geometric
from jsparse._schedule import silo as silo
from jsparse._schedule import triangle as triangle
from jsparse._schedule import warm_stairs as warm_stairs
