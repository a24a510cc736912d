"""PURE. Which worker serves a prompt soonest: one price in seconds per worker, the lowest wins.

``queue_s`` what is ahead -> ``predict`` what would be loaded and computed -> ``choose`` the argmin ->
``Reservations`` so that the next request sees this one; ``RoutingDesk`` does all of it for one request.
``ROUTERS`` holds that router and the baselines it is compared with, behind one Protocol.
"""

from mygo.routing.baselines import ConsistentHash, PowerOfTwo, RoundRobin
from mygo.routing.choose import choose
from mygo.routing.desk import ClusterView, RoutingDesk
from mygo.routing.predict import Prediction, predict
from mygo.routing.prefix_affinity import PrefixAffinity
from mygo.routing.reservations import Reservations, queue_s
from mygo.routing.router import Router, RouteRequest, route_to
from mygo.routing.routers import ROUTERS, PredictedSeconds

__all__ = [
    "ROUTERS",
    "ClusterView",
    "ConsistentHash",
    "PowerOfTwo",
    "PredictedSeconds",
    "Prediction",
    "PrefixAffinity",
    "Reservations",
    "RoundRobin",
    "RouteRequest",
    "Router",
    "RoutingDesk",
    "choose",
    "predict",
    "queue_s",
    "route_to",
]
