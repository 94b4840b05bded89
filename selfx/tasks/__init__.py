"""Ground truth: experiments on a target, put into questions with true answers in words."""
