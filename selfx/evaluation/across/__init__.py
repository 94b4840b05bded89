"""Several models and several states of one: who explains whom, and who follows a change."""
