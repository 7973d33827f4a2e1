"""Tool calls and reasoning: how model families write them, and a parser that takes an answer apart."""
