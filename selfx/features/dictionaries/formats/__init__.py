"""One reader a published layout; each knows its files by what they hold, and folds what it can."""
