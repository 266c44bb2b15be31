"""What daemon, agent and CLI exchange: records, codec, report schema."""
