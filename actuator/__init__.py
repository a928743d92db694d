"""vmheal's actuator: takes Alertmanager's webhook, checks the live system, decides, and acts."""
