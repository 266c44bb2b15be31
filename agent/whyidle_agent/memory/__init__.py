"""What the agent remembers beyond its prompt: two policies over one vector store on disk."""
