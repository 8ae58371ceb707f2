"""Learning-rate schedules: pure functions of the step; one part a file."""
