"""Libraries that stand in for drivers on machines without the hardware, through the drivers' real ABI."""
