"""What completions and chats share."""
