"""BPF programs, the event layout they share with user space, and the loader child."""
