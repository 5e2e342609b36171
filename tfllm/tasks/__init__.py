"""What a model is for, as functions from text to text."""

from tfllm.tasks.definition import TaskDefinition
from tfllm.tasks.evaluating import TaskEvaluation, evaluate_task
from tfllm.tasks.language_model.chat import Chat
from tfllm.tasks.language_model.chat_session import ChatSession
from tfllm.tasks.language_model.code_generation import CodeGeneration
from tfllm.tasks.language_model.text_generation import TextGeneration, generate
from tfllm.tasks.loading import load_task
from tfllm.tasks.registry import TASKS, task_definition
from tfllm.tasks.served import ServedTask

__all__ = [
    "TASKS",
    "Chat",
    "ChatSession",
    "CodeGeneration",
    "ServedTask",
    "TaskDefinition",
    "TaskEvaluation",
    "TextGeneration",
    "evaluate_task",
    "generate",
    "load_task",
    "task_definition",
]
