"""Systems around the paper: the value compass, social value orientation, new theories; none knows another."""
