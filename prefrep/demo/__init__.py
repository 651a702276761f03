"""What a general preference model can represent and a Bradley-Terry model cannot, in minutes on two cores."""
