-- Always there, so that whoever publishes can hold it and a switch has something to wait for.
INSERT IGNORE INTO platform_modes(name) VALUES ('restore');
