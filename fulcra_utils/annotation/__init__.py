"""From replies to labels: questions to annotators, votes, review by people, Label Studio."""
