"""The densities of layers that keep the best score within a budget on any function.

1. Score and cost are functions of the masked model that need no derivative. A candidate is one
   density for each layer; inside a layer the units of highest importance stay.
2. The pool begins with the dense model and the controls: the same density everywhere, one cut
   through the importance of all layers, Erdos-Renyi-kernel densities.
3. A method proposes populations of candidates. Each is scaled until it meets the limit and uses it
   up, then scored, after `recover` has repaired it. The limit falls in stages to the budget.
4. The controls and the best others go through successive halving, with twice as much recovery in
   each round, so that the result is not worse than its controls.

Numbers: experiments/search_budget.py.
"""
