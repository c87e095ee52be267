"""Discrete-event simulation: arrivals, a balancer, replicas with continuous batching, and
queues."""
