"""Requests over time: arrivals, a balancer, replicas that batch continuously, and their queues."""
