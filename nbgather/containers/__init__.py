"""One room for each array library: how its arrays tell of themselves, and how a call is executed.

A container describes arrays and makes results; it hands the operation down to the engine, or to
what its library traces, differentiates or schedules with. It calls no public function.
"""
