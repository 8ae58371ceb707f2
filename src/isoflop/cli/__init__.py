"""The command line: thin verbs; what is heavy is imported by the verb that needs it."""
