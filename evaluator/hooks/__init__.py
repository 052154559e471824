"""Who is told: targets outside, reached only where the policy allows it."""
