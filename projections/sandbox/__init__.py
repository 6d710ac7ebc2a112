"""What a trial needs: an embedded PostgreSQL, a simulated upstream and the demo."""
