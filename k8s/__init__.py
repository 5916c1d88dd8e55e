"""Kubernetes manifests of a built fleet, and the rules by which its services scale."""
