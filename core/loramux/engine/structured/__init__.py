"""Text of a form that the request demands: grammars, and what they allow at each step."""
