"""An honest fleet beside a liar with the PSK: real agents, a real manager, real sockets."""
