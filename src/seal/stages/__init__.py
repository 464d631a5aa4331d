"""The verbs: rank, select, train, evaluate, report; none imports another."""
