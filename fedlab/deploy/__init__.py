"""The same devices over a network: Flower carries the messages, the bits are the simulation's."""

from fedlab.deploy.messages import MessageError
from fedlab.deploy.node import Node
from fedlab.deploy.remote import Remote
from fedlab.deploy.server import deployed, respondents

__all__ = ["MessageError", "Node", "Remote", "deployed", "respondents"]
