"""Replicas, a balancer, health and exports, from one deployment file."""
