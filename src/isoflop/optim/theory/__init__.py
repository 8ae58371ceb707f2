"""Small exact theory: what averages, preconditioners and curvature do where everything can be computed."""
