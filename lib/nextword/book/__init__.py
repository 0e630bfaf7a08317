"""What only the book itself needs: its claims, its recorded runs, its figures, and how its translators were trained."""
