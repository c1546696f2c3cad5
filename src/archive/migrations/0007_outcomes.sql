-- Eight entries for every task that is played cost more than reading all rollouts once a round.
DROP INDEX rollout_outcome;
