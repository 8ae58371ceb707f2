"""Parts of the slot parametrization: what stands in for a weight's product while it is trained."""
