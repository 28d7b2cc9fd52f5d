"""A model is scored, admitted or held."""
