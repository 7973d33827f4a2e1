"""Replicas of a model on Ray Serve (extra ``hrun[ray]``), behind the same server.

The front is the process of ``hrun-serve``: it has the HTTP side, the tokenizer and the chat template.  Replicas compute tokens
and nothing else.  By the numeric contract they compute the same ones, so that a sequence whose replica dies goes on at another,
from the tokens that are there, and nobody can tell.
"""
