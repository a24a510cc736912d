"""Load tests of a running cluster: ramps, spikes, soaks and kills, from outside, over HTTP."""
