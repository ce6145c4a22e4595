"""What a model has to beat: a linear classifier on the very same split."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression


def text_baseline(train_texts, train_labels, test_texts, test_labels) -> dict:
    """TF-IDF of words and logistic regression, both with scikit-learn's own settings."""
    vectors = TfidfVectorizer()
    model = LogisticRegression(max_iter=1000).fit(vectors.fit_transform(train_texts), train_labels)
    accuracy = model.score(vectors.transform(test_texts), test_labels)
    return {"kind": "TF-IDF + logistic regression", "accuracy": round(float(accuracy), 4)}


def picture_baseline(train_pictures, train_labels, test_pictures, test_labels) -> dict:
    """Logistic regression on the pixels."""
    flat = lambda pictures: pictures.reshape(len(pictures), -1).astype(np.float32) / 255
    model = LogisticRegression(max_iter=200).fit(flat(train_pictures), train_labels)
    accuracy = model.score(flat(test_pictures), test_labels)
    return {"kind": "logistic regression on pixels", "accuracy": round(float(accuracy), 4)}
