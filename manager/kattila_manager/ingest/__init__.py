"""Takes reports: from the bytes of a request to the signed answer, in the server's workers."""
