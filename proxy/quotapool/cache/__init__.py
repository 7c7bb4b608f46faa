"""Answers that need not be asked for twice: kept encrypted in the store, or shared while they are on their way."""
