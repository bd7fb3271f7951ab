"""How good a schedule can be: proven lower bounds, exact optima, a planner, closed forms of competitive ratios."""
